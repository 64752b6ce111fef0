"""Writer: turns passages into an answer whose every sentence is cited."""
