"""Adapters for SDKs that programs already use, a module each. Imports none of them."""
