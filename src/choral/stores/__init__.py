"""Where runs and bytes rest: implementations of the `RunStore` and `BlobStore` ports."""
