"""Client addresses as proxies and dual-stack sockets write them.

One client has to have one spelling: limits are counted by it. Proxies write an IPv4 client of an
IPv6 socket as `::ffff:198.51.100.1` (RFC 4291, section 2.5.5.2), add ports and brackets as RFC
7239, section 6, does, and some add a zone. waitress takes all of that apart at the first colon.
"""

from __future__ import annotations

import ipaddress

MAX_HOPS_LENGTH = 4096
"""A longer X-Forwarded-For is left to waitress as it is."""


def plain(address: str) -> str:
    """The address without brackets, port and zone; IPv4 where it is one. A name or anything else
    stays as it is."""
    text = address.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    text = text.partition("%")[0]
    try:
        parsed = ipaddress.ip_address(text)
    except ValueError:
        return address.strip()
    mapped = getattr(parsed, "ipv4_mapped", None)
    return str(mapped if mapped is not None else parsed)


def plain_hops(header: str) -> str:
    """The value of X-Forwarded-For with every hop spelled alike, IPv6 in brackets as waitress
    wants it."""
    if len(header) > MAX_HOPS_LENGTH:
        return header
    hops = (plain(hop) for hop in header.split(","))
    return ", ".join(f"[{hop}]" if ":" in hop and hop[0] != "[" else hop for hop in hops)
