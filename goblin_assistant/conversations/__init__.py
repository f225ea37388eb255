"""The page's conversations. Only here is the content of chats stored."""
