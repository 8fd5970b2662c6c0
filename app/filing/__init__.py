"""The third stream: sealed report → custodians → destination. It starts at the store."""
