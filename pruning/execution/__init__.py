"""Making one step: under a claim, with a record, to a result; whoever asks for it."""
