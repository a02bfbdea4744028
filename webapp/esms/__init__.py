"""The provider: the only package that knows its parameter names, codes and quirks."""
