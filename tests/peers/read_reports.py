"""Reads DMARC and SMTP TLS reports with parsedmarc.

usage: read_reports.py FILE…
prints {file: report}, each report in one flat form with its instants as seconds since the epoch; {"refused": why} where
parsedmarc takes none.
"""

import json
import os
import sys
import time
from datetime import datetime, timezone

os.environ["TZ"] = "UTC"
time.tzset()

import parsedmarc  # noqa: E402


def seconds(text):
    """An instant as parsedmarc prints it: in UTC, with or without its zone."""
    at = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return int((at if at.tzinfo else at.replace(tzinfo=timezone.utc)).timestamp())


def bare(path):
    return path.strip("<> ") if path else path


def aggregate(report):
    metadata, policy = report["report_metadata"], report["policy_published"]
    version = report["xml_schema"]
    return {
        "type": "aggregate",
        "version": None if version == "draft" else version,
        "org_name": metadata["org_name"],
        "org_email": metadata["org_email"],
        "contact": metadata["org_extra_contact_info"],
        "report_id": metadata["report_id"],
        "begin": seconds(metadata["begin_date"]),
        "end": seconds(metadata["end_date"]),
        "errors": metadata["errors"],
        "generator": metadata["generator"],
        "policy": {**policy, "pct": None if policy["pct"] is None else int(policy["pct"])},
        "records": [
            {
                "source_ip": record["source"]["ip_address"],
                "messages": record["count"],
                "disposition": record["policy_evaluated"]["disposition"],
                "dkim_aligned": record["alignment"]["dkim"],
                "spf_aligned": record["alignment"]["spf"],
                "reasons": [
                    {"type": reason.get("type"), "comment": reason.get("comment")}
                    for reason in record["policy_evaluated"]["policy_override_reasons"]
                ],
                "identifiers": {name: record["identifiers"].get(name) for name in ("header_from", "envelope_from", "envelope_to")},
                "dkim": record["auth_results"]["dkim"],
                "spf": record["auth_results"]["spf"],
            }
            for record in report["records"]
        ],
    }


def failure(report):
    named = ("user_agent", "version", "delivery_result", "auth_failure", "reported_domain", "authentication_results", "dkim_domain")
    return {
        "type": "failure",
        **{name: report.get(name) for name in named},
        "original_mail_from": bare(report["original_mail_from"]),
        "original_rcpt_to": bare(report["original_rcpt_to"]),
        "original_envelope_id": report["original_envelope_id"],
        "arrived": seconds(report["arrival_date_utc"]),
        "source_ip": report["source"]["ip_address"],
        "identity_alignment": report["authentication_mechanisms"],
    }


def tls(report):
    return {
        "type": "tls",
        "org_name": report["organization_name"],
        "contact": report["contact_info"],
        "report_id": report["report_id"],
        "begin": seconds(report["begin_date"]),
        "end": seconds(report["end_date"]),
        "policies": [
            {
                "domain": policy["policy_domain"],
                "type": policy["policy_type"],
                "strings": policy.get("policy_strings", []),
                "successful": policy["successful_session_count"],
                "failed": policy["failed_session_count"],
                "failures": [
                    {
                        "result_type": found["result_type"],
                        "failed": found["failed_session_count"],
                        **{
                            name: found.get(name)
                            for name in (
                                "sending_mta_ip",
                                "receiving_ip",
                                "receiving_mx_hostname",
                                "receiving_mx_helo",
                                "additional_info_uri",
                                "failure_reason_code",
                            )
                        },
                    }
                    for found in policy.get("failure_details", [])
                ],
            }
            for policy in report["policies"]
        ],
    }


FORMS = {"aggregate": aggregate, "failure": failure, "smtp_tls": tls}


def main():
    answer = {}
    for file in sys.argv[1:]:
        try:
            # a span above this would be spread over days, and records with it
            read = parsedmarc.parse_report_file(file, offline=True, normalize_timespan_threshold_hours=1e9)
        except parsedmarc.ParserError as error:
            answer[file] = {"refused": str(error)}
            continue
        answer[file] = FORMS[read["report_type"]](read["report"])
    json.dump(answer, sys.stdout)


main()
