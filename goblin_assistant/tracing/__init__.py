"""Distributed tracing: trace context, spans, and their export to an OTLP collector."""
