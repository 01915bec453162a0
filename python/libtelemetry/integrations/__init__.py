"""Adapters for SDKs that programs already use, a module each; importing this imports none."""


class UnsupportedSDK(RuntimeError):
    """The installed version of an SDK is not built as its adapter needs it; the text names both.

    Raised before anything is changed: the SDK goes on as without the adapter.
    """
