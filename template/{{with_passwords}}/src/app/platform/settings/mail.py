"""Settings of e-mail: the mail server, the sender, and the address that links lead to."""

from email.headerregistry import Address
from email.utils import parseaddr
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings

from app.platform.settings.core import DEPLOYED
from app.platform.settings.urls import split_url


def _is_deployed(data: dict[str, Any]) -> bool:
    return data.get("environment") in DEPLOYED


class MailSettings(BaseSettings):
    """The mail server, the sender, and the address that links lead to."""

    smtp_tls: Literal["starttls", "off"] = Field(
        "starttls",
        description="starttls: smtp:// is encrypted, or nothing is sent; off: plain, for a mail"
        " server on this network",
    )
    public_url: str = Field(
        default_factory=lambda data: "" if _is_deployed(data) else "http://localhost:8000",
        description="Address of your pages, such as https://app.example.com: links in mails begin"
        " with it",
    )
    mail_from: str = Field(
        default_factory=lambda data: "" if _is_deployed(data) else "no-reply@localhost",
        description="Sender of mails, such as Example <no-reply@example.com>",
    )
    smtp_password: SecretStr | None = Field(
        None, description="Password at the mail server, of the user in SMTP_URL"
    )
    smtp_url: str | None = Field(
        None,
        description="Mail server, such as smtps://user@mail.example.com; unset: mails are shown in"
        " the output in development, and wait in the database elsewhere",
    )
    email_verification: Literal["optional", "required"] = Field(
        "optional",
        description="required: nobody can log in before their address is confirmed, and a"
        " registration does not tell whether the address has an account",
    )
    mail_timeout: float = Field(
        20, gt=0, le=300, description="Seconds that the mail server has to accept a mail"
    )
    mail_poll_interval: float = Field(
        5,
        ge=0.05,
        le=3600,
        description="Seconds between two queries for mails that are due",
    )
    mail_locale: str = Field(
        "en",
        pattern=r"^[a-z]{2,3}(-[A-Za-z0-9]{2,8})*$",
        description="Language of mails, such as de or pt-BR; without templates of it, English",
    )

    @field_validator("public_url")
    @classmethod
    def _is_base(cls, value: str, info: ValidationInfo) -> str:
        url = split_url(value, "http", "https")
        if value and (url is None or url.query or url.fragment):
            raise ValueError("is not an address; write it as https://app.example.com")
        if value and _is_deployed(info.data) and not value.lower().startswith("https:"):
            raise ValueError("must begin with https://: links in mails hold tokens")
        return value.rstrip("/")

    @field_validator("mail_from")
    @classmethod
    def _is_sender(cls, value: str) -> str:
        name, address = parseaddr(value)
        try:
            valid = not value or ("@" in address and Address(name, addr_spec=address))
        except (ValueError, IndexError):
            valid = False
        if not valid or not value.isprintable():
            raise ValueError("is not a sender; write it as Example <no-reply@example.com>")
        return value

    @field_validator("smtp_url")
    @classmethod
    def _is_complete(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            return None
        url = split_url(value, "smtp", "smtps")
        if url is None:
            raise ValueError("is not a mail server; write it as smtps://user@mail.example.com")
        if url.password is not None:
            raise ValueError("has a password: put that into SMTP_PASSWORD")
        if not _is_deployed(info.data):
            return value
        for name in ("public_url", "mail_from"):
            if info.data.get(name) == "":
                raise ValueError(f"needs {name.upper()}, too, which is not set")
        if url.username and url.scheme == "smtp" and info.data.get("smtp_tls") == "off":
            raise ValueError("would send its password unencrypted: set SMTP_TLS=starttls")
        return value

    @field_validator("email_verification")
    @classmethod
    def _is_possible(cls, value: str, info: ValidationInfo) -> str:
        without = "smtp_url" in info.data and info.data["smtp_url"] is None
        if value == "required" and without and _is_deployed(info.data):
            raise ValueError("required needs SMTP_URL, which is not set")
        return value


def smtp_options(settings: MailSettings) -> dict[str, Any] | None:
    """The mail server, as arguments of ``aiosmtplib.SMTP``; ``None`` if unset."""
    if settings.smtp_url is None:
        return None
    url = urlsplit(settings.smtp_url)
    password = settings.smtp_password
    implicit = url.scheme == "smtps"
    return {
        "hostname": url.hostname,
        "port": url.port or (465 if implicit else 587),
        "username": unquote(url.username) if url.username else None,
        "password": password.get_secret_value() if url.username and password else None,
        "use_tls": implicit,
        "start_tls": not implicit and settings.smtp_tls == "starttls",
        "timeout": settings.mail_timeout,
    }
