"""What a person needs who files without access to an API: forms to copy from, and XARF for others."""
