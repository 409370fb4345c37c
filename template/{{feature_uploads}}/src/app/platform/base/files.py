"""Uploaded files: their types, recognized by their first bytes, and safe names for them."""

import re
import unicodedata
from collections.abc import Callable
from urllib.parse import quote

HEAD_SIZE = 4096  # bytes that decide the type of a file
MAX_NAME_BYTES = 200  # in UTF-8; file systems allow 255
# Reserved by Windows and by shells; control characters are removed with others.
RESERVED = re.compile(r'[<>:"/\\|?*]')
DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
# Bytes that text does not have (WHATWG MIME Sniffing, section 7.2).
BINARY = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")


def _starts(*signatures: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(signatures)


def _riff(kind: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(b"RIFF") and head[8:12] == kind


def _brand(*brands: bytes) -> Callable[[bytes], bool]:
    """An ISO base media file (ISO/IEC 14496-12) of one of these major brands."""
    return lambda head: head[4:8] == b"ftyp" and head[8:12] in brands


def _is_text(head: bytes) -> bool:
    if BINARY.search(head):
        return False
    try:
        head.decode()
    except UnicodeDecodeError as error:
        # A character may be cut off at the end.
        return len(head) >= HEAD_SIZE and error.start > len(head) - 4
    return True


# The signature of each type, at the very beginning of the file, and its extensions.
SIGNATURES: dict[str, tuple[Callable[[bytes], bool], tuple[str, ...]]] = {
    "image/png": (_starts(b"\x89PNG\r\n\x1a\n"), (".png",)),
    "image/jpeg": (_starts(b"\xff\xd8\xff"), (".jpg", ".jpeg")),
    "image/gif": (_starts(b"GIF87a", b"GIF89a"), (".gif",)),
    "image/webp": (_riff(b"WEBP"), (".webp",)),
    "image/avif": (_brand(b"avif", b"avis"), (".avif",)),
    "image/heic": (_brand(b"heic", b"heix", b"mif1"), (".heic", ".heif")),
    "image/bmp": (_starts(b"BM"), (".bmp",)),
    "image/tiff": (_starts(b"II*\x00", b"MM\x00*"), (".tif", ".tiff")),
    "application/pdf": (_starts(b"%PDF-"), (".pdf",)),
    "application/zip": (
        _starts(b"PK\x03\x04", b"PK\x05\x06"),
        (".zip", ".docx", ".xlsx", ".pptx", ".odt", ".ods", ".odp", ".epub"),
    ),
    "application/gzip": (_starts(b"\x1f\x8b\x08"), (".gz", ".tgz")),
    "audio/flac": (_starts(b"fLaC"), (".flac",)),
    "audio/ogg": (_starts(b"OggS"), (".ogg", ".oga", ".opus")),
    "audio/wav": (_riff(b"WAVE"), (".wav",)),
    "video/mp4": (_brand(b"isom", b"iso2", b"iso5", b"mp41", b"mp42", b"avc1", b"M4V "), (".mp4",)),
    "video/webm": (_starts(b"\x1aE\xdf\xa3"), (".webm",)),
    # Last: what no other type begins like.
    "text/plain": (_is_text, (".txt", ".csv", ".md", ".log")),
}


def sniff(head: bytes) -> str | None:
    """The media type of a file that begins with ``head``, up to ``HEAD_SIZE`` bytes."""
    if not head:
        return None
    return next((name for name, (matches, _) in SIGNATURES.items() if matches(head)), None)


def safe_name(name: str, media_type: str) -> str:
    """A name for a file of ``media_type``, safe on every system, with an extension of its type."""
    name = name.replace("\\", "/").rpartition("/")[2]
    # The time of normalizing grows with the square of the length.
    if len(name) > 2 * MAX_NAME_BYTES:
        name = name[:MAX_NAME_BYTES] + name[-MAX_NAME_BYTES:]
    name = unicodedata.normalize("NFC", name)
    # Categories C*: control characters, also those that turn the direction of text, and others.
    visible = "".join(char for char in name if unicodedata.category(char)[0] != "C")
    name = RESERVED.sub("_", visible).strip(". ") or "file"
    if DEVICES.fullmatch(name):
        name = f"_{name}"
    extensions = SIGNATURES[media_type][1]
    stem, dot, extension = name.rpartition(".")
    if not (dot and f".{extension.lower()}" in extensions):
        stem, extension = name, extensions[0][1:]
    limit = MAX_NAME_BYTES - len(extension) - 1
    stem = stem.encode()[:limit].decode(errors="ignore").rstrip(". ")
    return f"{stem}.{extension}"


def content_disposition(name: str) -> str:
    """The header that lets a browser save a file under ``name`` (RFC 6266)."""
    plain = name.encode("ascii", "replace").decode().replace("?", "_").replace('"', "_")
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
