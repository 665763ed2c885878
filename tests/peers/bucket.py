"""Makes buckets, and tells how their objects are kept, with clients that are not sendlake's.

usage: bucket.py s3-make ENDPOINT KEY SECRET BUCKET
       bucket.py s3-objects ENDPOINT KEY SECRET BUCKET [SSE_C_KEY_BASE64]
       bucket.py s3-key ENDPOINT            a new KMS key's id
       bucket.py azure-make ENDPOINT ACCOUNT KEY CONTAINER
prints JSON; `null` when there is nothing to tell
"""

import base64
import email.utils
import hashlib
import hmac
import json
import sys
import urllib.request


def client(service, endpoint, key="test", secret="test"):
    import boto3

    return boto3.client(
        service, endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id=key, aws_secret_access_key=secret
    )


def s3_make(endpoint, key, secret, bucket):
    client("s3", endpoint, key, secret).create_bucket(Bucket=bucket)


def s3_objects(endpoint, key, secret, bucket, customer_key=None):
    """What head_object says of encryption, for each object by name."""
    s3 = client("s3", endpoint, key, secret)
    sse_c = {}
    if customer_key:
        sse_c = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": base64.b64decode(customer_key)}
    told = {}
    for item in s3.list_objects_v2(Bucket=bucket)["Contents"]:
        head = s3.head_object(Bucket=bucket, Key=item["Key"], **sse_c)
        names = ("ServerSideEncryption", "SSEKMSKeyId", "BucketKeyEnabled", "SSECustomerAlgorithm")
        told[item["Key"]] = {name: head[name] for name in names if name in head}
    return told


def s3_key(endpoint):
    return client("kms", endpoint).create_key()["KeyMetadata"]["KeyId"]


def azure_make(endpoint, account, key, container):
    """One PUT, signed as "Authorize with Shared Key" in Azure's documentation says."""
    headers = {"x-ms-date": email.utils.formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
    resource = f"/{account}/{account}/{container}\nrestype:container"
    text = "PUT" + "\n" * 12 + "".join(f"{name}:{headers[name]}\n" for name in sorted(headers)) + resource
    signature = base64.b64encode(hmac.new(base64.b64decode(key), text.encode(), hashlib.sha256).digest()).decode()
    headers["Authorization"] = f"SharedKey {account}:{signature}"
    url = f"{endpoint}/{account}/{container}?restype=container"
    urllib.request.urlopen(urllib.request.Request(url, data=b"", method="PUT", headers=headers | {"Content-Type": ""}))


print(json.dumps(globals()[sys.argv[1].replace("-", "_")](*sys.argv[2:])))
