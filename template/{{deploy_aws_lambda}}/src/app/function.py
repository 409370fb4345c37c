"""Entry point of the function's container: AWS's runtime client, one event at a time.

``python -m app.function`` needs ``AWS_LAMBDA_RUNTIME_API``, which Lambda sets.
"""

import os
from typing import Any

from awslambdaric import bootstrap
from awslambdaric.lambda_runtime_client import LambdaRuntimeClient

from app.main import create_app
from app.platform.server.function import service


def main() -> None:
    """Answer events until the platform ends this process."""
    client = LambdaRuntimeClient(os.environ["AWS_LAMBDA_RUNTIME_API"])
    bootstrap.run("app.function.handle", client)


def __getattr__(name: str) -> Any:
    """Start the service when the runtime client asks for ``handle``, not at import."""
    if name != "handle":
        raise AttributeError(name)
    return service.start(create_app).handle


if __name__ == "__main__":
    main()
