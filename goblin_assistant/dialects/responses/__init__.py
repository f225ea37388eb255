"""OpenAI's Responses API, for clients. Stateless: no response is stored."""
