"""A made-up company for `gapwatch demo`: its accounts, its inventory, and the CloudTrail records of its days."""
