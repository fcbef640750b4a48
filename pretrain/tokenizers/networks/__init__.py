"""What stands before and behind a quantizer, a file each: `Config`, and an `Encoder`, a `Decoder`, or both."""
