"""The language every member of a crew speaks: subjects, messages, client, embedded server."""
