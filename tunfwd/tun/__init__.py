"""The TUN device, and the addresses and routes that lead to it."""
