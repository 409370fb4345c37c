"""Routes for subscriptions: the platform's, for the callers of this service."""

from app.auth import current_user
from app.platform.http.webhook_routes import create_router

router = create_router(current_user)
