"""Types of files are recognized by their contents, and names are safe."""

import pytest

from app.platform.base.files import HEAD_SIZE, SIGNATURES, content_disposition, safe_name, sniff
from app.platform.settings.uploads import MEDIA_TYPES

HEADS = {
    b"\x89PNG\r\n\x1a\n....": "image/png",
    b"\xff\xd8\xff\xe0....": "image/jpeg",
    b"GIF89a....": "image/gif",
    b"RIFF....WEBPVP8 ": "image/webp",
    b"RIFF....WAVEfmt ": "audio/wav",
    b"\x00\x00\x00 ftypavif....": "image/avif",
    b"\x00\x00\x00 ftypisom....": "video/mp4",
    b"%PDF-1.7\n": "application/pdf",
    b"PK\x03\x04....": "application/zip",
    "größer".encode(): "text/plain",
    b"x" * (HEAD_SIZE - 1) + "ö".encode()[:1]: "text/plain",
}


@pytest.mark.parametrize(("head", "media_type"), HEADS.items())
def test_a_type_is_told_from_the_first_bytes(head: bytes, media_type: str) -> None:
    assert sniff(head) == media_type


@pytest.mark.parametrize(
    "head",
    [b"", b"MZ\x90\x00", b"\x7fELF\x02", b"\x00\x00", b"\xff\xfe<\x00", b" \x00%PDF-1.7"],
)
def test_contents_that_begin_like_no_known_type_have_none(head: bytes) -> None:
    assert sniff(head) is None


def test_a_page_with_scripts_is_text_at_most() -> None:
    assert sniff(b"<!doctype html><script>alert(1)</script>") == "text/plain"


def test_the_types_that_can_be_accepted_are_those_that_can_be_told() -> None:
    assert sorted(SIGNATURES) == sorted(MEDIA_TYPES)


NAMES = {
    "photo.png": "photo.png",
    "PHOTO.PNG": "PHOTO.PNG",
    "page.html": "page.html.png",
    "../../etc/passwd": "passwd.png",
    "C:\\Users\\ada\\photo.png": "photo.png",
    "a\x00b\r\nSet-Cookie: x.png": "abSet-Cookie_ x.png",
    "gnp.\u202eexe": "gnp.exe.png",
    "nul.png": "_nul.png",
    "...": "file.png",
    "": "file.png",
    ".png": "png.png",
    'a"b<c>.png': "a_b_c_.png",
    "größe.png": "größe.png",
}


@pytest.mark.parametrize(("given", "safe"), NAMES.items())
def test_a_name_is_safe_on_every_system(given: str, safe: str) -> None:
    assert safe_name(given, "image/png") == safe


def test_a_long_name_keeps_its_extension() -> None:
    name = safe_name("ö" * 500 + ".jpeg", "image/jpeg")
    assert len(name.encode()) <= 200
    assert name.endswith("ö.jpeg")


def test_a_name_of_a_megabyte_keeps_no_process_busy() -> None:
    marks = "\N{COMBINING ACUTE ACCENT}\N{COMBINING GRAVE ACCENT BELOW}"
    name = safe_name(f"a{marks * 250_000}.png", "image/png")
    assert name.endswith(".png")
    assert len(name.encode()) <= 200


def test_a_header_can_not_be_left_through_a_name() -> None:
    value = content_disposition(safe_name('a"; x="b\r\nX: y.png', "image/png"))
    assert value.startswith('attachment; filename="')
    assert value.count('"') == 2
    assert "\r" not in value
    assert content_disposition("größe.png").endswith("filename*=UTF-8''gr%C3%B6%C3%9Fe.png")
