"""Media types by file name extension, for nginx's `types` (the registrations of IANA for what a web site serves)."""

MEDIA_TYPES: dict[str, tuple[str, ...]] = {
    "application/atom+xml": ("atom",),
    "application/gzip": ("gz",),
    "application/javascript": ("js", "mjs"),
    "application/json": ("json", "map"),
    "application/manifest+json": ("webmanifest",),
    "application/pdf": ("pdf",),
    "application/rss+xml": ("rss",),
    "application/rtf": ("rtf",),
    "application/wasm": ("wasm",),
    "application/xhtml+xml": ("xhtml",),
    "application/zip": ("zip",),
    "audio/mpeg": ("mp3",),
    "audio/ogg": ("ogg", "oga"),
    "audio/wav": ("wav",),
    "font/otf": ("otf",),
    "font/ttf": ("ttf",),
    "font/woff": ("woff",),
    "font/woff2": ("woff2",),
    "image/avif": ("avif",),
    "image/bmp": ("bmp",),
    "image/gif": ("gif",),
    "image/jpeg": ("jpeg", "jpg"),
    "image/png": ("png",),
    "image/svg+xml": ("svg", "svgz"),
    "image/tiff": ("tif", "tiff"),
    "image/webp": ("webp",),
    "image/x-icon": ("ico",),
    "text/calendar": ("ics",),
    "text/css": ("css",),
    "text/csv": ("csv",),
    "text/html": ("html", "htm"),
    "text/markdown": ("md",),
    "text/plain": ("txt",),
    "text/vtt": ("vtt",),
    "text/xml": ("xml",),
    "video/mp4": ("mp4", "m4v"),
    "video/mpeg": ("mpeg", "mpg"),
    "video/quicktime": ("mov",),
    "video/webm": ("webm",),
}

#: Types that nginx compresses on the fly; text/html always is.
COMPRESSED = (
    "application/atom+xml",
    "application/javascript",
    "application/json",
    "application/manifest+json",
    "application/rss+xml",
    "application/wasm",
    "application/xhtml+xml",
    "image/svg+xml",
    "text/calendar",
    "text/css",
    "text/csv",
    "text/markdown",
    "text/plain",
    "text/vtt",
    "text/xml",
)


def compressed_endings() -> tuple[str, ...]:
    """Return the endings of files of which nginx serves a compressed copy."""
    return tuple(f".{ending}" for kind in (*COMPRESSED, "text/html") for ending in MEDIA_TYPES.get(kind, ()))
