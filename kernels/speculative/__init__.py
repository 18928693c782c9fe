"""Speculative decoding: a cheap draft proposes tokens, the target checks them all in one step."""
