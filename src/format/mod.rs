//! How a batch becomes a request body, and how the answer is read: one file a wire format.
