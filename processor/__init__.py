"""gapwatch: the least-privilege gap of every IAM role and user, kept as CloudTrail arrives."""
