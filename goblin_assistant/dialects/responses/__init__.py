"""OpenAI's Responses API, as clients speak it: without state on this side."""
