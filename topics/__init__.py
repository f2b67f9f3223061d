"""The published contract of each Kafka topic, one module a topic."""
