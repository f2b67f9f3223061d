"""The error of calls to AWS, apart from AWS' client: so the command line knows it without loading that."""


class AwsError(Exception):
    """A call that failed. `kind` is credentials, denied, unreachable, throttled, missing (what was asked for is not there) or
    failed; `call` is the IAM action that it needs; the text is for a person."""

    def __init__(self, kind: str, call: str, account_id: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind
        self.call = call
        self.account_id = account_id
