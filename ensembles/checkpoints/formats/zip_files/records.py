"""Signatures, sizes and flags of the records of zip files.

Source: PKWARE, APPNOTE.TXT 6.3.10, sections 4.3.7 to 4.5.3.
"""

from __future__ import annotations

LOCAL = b"PK\x03\x04"  # before the name and data of an entry
DESCRIPTOR = b"PK\x07\x08"  # after the data, with the checksum
CENTRAL = b"PK\x01\x02"  # entry of the directory
END_64 = b"PK\x06\x06"  # end of the directory, with 64-bit numbers
LOCATOR_64 = b"PK\x06\x07"  # position of the record before
END = b"PK\x05\x06"
# Bytes of each record, without names, extra fields and comments.
LOCAL_SIZE, CENTRAL_SIZE, END_64_SIZE, LOCATOR_64_SIZE, END_SIZE = 30, 46, 56, 20, 22
LARGEST_16 = 0xFFFF  # largest length of a name, an extra field or a comment
# A size or offset from here on is in the extra field with this number.
LARGEST_32, ZIP64 = 0xFFFFFFFF, 1
ENCRYPTED, HAS_DESCRIPTOR, UTF8 = 0x1, 0x8, 0x800  # flags
STORED, DEFLATED = 0, 8  # compression methods
