import io
import zipfile


def build() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("../hostile", "x")
    return buffer.getvalue()
