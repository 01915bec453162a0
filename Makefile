build:
	cargo rustc --release --lib --crate-type cdylib
