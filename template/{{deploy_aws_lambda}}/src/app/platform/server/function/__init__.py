"""The API as an AWS Lambda function: events in, answers out, nothing left running."""
