"""Where text comes from, and how it becomes windows of symbols or tokens."""
