"""The context-vector recurrence: one vector for the whole past."""
