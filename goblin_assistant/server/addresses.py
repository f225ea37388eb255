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
    text = address.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    parsed = _parsed(text)
    if parsed is None:  # "::ffff:198.51.100.1:80", "2001:db8:0:0:0:0:0:1:80"
        before, _, port = text.rpartition(":")
        parsed = _parsed(before) if port.isdecimal() else None
    if parsed is None:
        return text or address.strip()
    mapped = getattr(parsed, "ipv4_mapped", None)
    return str(mapped if mapped is not None else parsed)


def _parsed(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None


def plain_hops(header: str) -> str:
    """The value of X-Forwarded-For with every hop spelled alike, IPv6 in brackets as waitress
    wants it."""
    if len(header) > MAX_HOPS_LENGTH:
        header = header[-MAX_HOPS_LENGTH:].partition(",")[2]
    hops = (plain(hop) for hop in header.split(","))
    return ", ".join(f"[{hop}]" if ":" in hop and hop[0] != "[" else hop for hop in hops)
