"""A person's own conversations: the one place that keeps the content of chats."""
