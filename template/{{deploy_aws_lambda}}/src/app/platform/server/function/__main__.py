"""What the function's container runs: AWS's own runtime client, which asks for one event at a time.

``python -m app.platform.server.function``; it needs ``AWS_LAMBDA_RUNTIME_API``, which Lambda sets.
"""

import os

from awslambdaric import bootstrap
from awslambdaric.lambda_runtime_client import LambdaRuntimeClient


def main() -> None:
    """Answer events for as long as the platform lets this process live."""
    client = LambdaRuntimeClient(os.environ["AWS_LAMBDA_RUNTIME_API"])
    bootstrap.run("app.platform.server.function.service.handle", client)


if __name__ == "__main__":
    main()
