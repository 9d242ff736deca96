"""CASCADE: stages that take over the hard tokens of a frozen base model."""
