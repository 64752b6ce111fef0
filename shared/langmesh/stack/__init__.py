"""A whole mesh on one machine: embedded servers, one process per service, their logs and spans."""
