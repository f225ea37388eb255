"""Client addresses as proxies and dual-stack sockets write them.

One client has to have one spelling: limits are counted by it. Proxies write an IPv4 client of an
IPv6 socket as `::ffff:198.51.100.1` (RFC 4291, section 2.5.5.2), add ports and brackets as RFC
7239, section 6, does, and some add a zone. waitress takes all of that apart at the first colon.
"""

from __future__ import annotations

import ipaddress

MAX_HOPS_LENGTH = 4096
"""Of a longer X-Forwarded-For the beginning is left out: a client wrote it, proxies add at the
end."""


def plain(address: str) -> str:
    """The address without quotes, brackets, port and zone; IPv4 where it is one. A name stays as it
    is, but for its port: that is another one with every connection."""
    # waitress refuses the request if a quotation mark is left.
    text = written = address.replace('"', "").strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0].strip()
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    parsed = _parsed(text)
    if parsed is None:  # "::ffff:198.51.100.1:80", "2001:db8:0:0:0:0:0:1:80"
        before, _, port = text.rpartition(":")
        parsed = _parsed(before) if port.isdecimal() else None
    if parsed is None:
        return text or written
    mapped = getattr(parsed, "ipv4_mapped", None)
    return str(mapped if mapped is not None else parsed)


def _parsed(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None


def plain_hops(header: str) -> str:
    """The value of X-Forwarded-For with every hop spelled alike, IPv6 in brackets as waitress
    wants it. Empty hops are left out (RFC 9110, section 5.6.1)."""
    if len(header) > MAX_HOPS_LENGTH:
        header = header[-MAX_HOPS_LENGTH:].partition(",")[2]
    hops = [hop for written in header.split(",") if (hop := plain(written))]
    return ", ".join(f"[{hop}]" if ":" in hop and hop[0] != "[" else hop for hop in hops)


def scheme_of(header: str, proxies: int) -> str | None:
    """The client's scheme by X-Forwarded-Proto; None if it is neither http nor https.

    Several proxies may each have added theirs. The one of the outermost trusted proxy counts, as in
    X-Forwarded-For. waitress would refuse a list, and any other scheme, with 400.
    """
    hops = [hop for part in header.split(",") if (hop := part.strip().strip('"').lower())]
    scheme = hops[-proxies:][0] if hops else ""
    return scheme if scheme in ("http", "https") else None
