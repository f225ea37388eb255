"""The page: its files, and stories of people who use it in Chromium."""
