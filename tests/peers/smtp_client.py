"""Sends one mail with smtplib: HOST PORT MAIL_FROM RCPT_TO FILE. Prints what was answered, and to which command."""

import json
import smtplib
import sys

host, port, mail_from, rcpt_to, path = sys.argv[1:]
with open(path, "rb") as file:
    mail = file.read()
with smtplib.SMTP(host, int(port), local_hostname="mx.receiver.test", timeout=30) as client:
    client.ehlo_or_helo_if_needed()
    for command, answer in (
        ("MAIL", lambda: client.mail(mail_from)),
        ("RCPT", lambda: client.rcpt(rcpt_to)),
        ("DATA", lambda: client.data(mail)),
    ):
        code, text = answer()
        if code >= 400:
            break
    print(json.dumps({"command": command, "code": code, "text": text.decode()}))
