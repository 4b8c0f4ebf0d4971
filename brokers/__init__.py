"""Vendor adapters for tronsave_async: one package per vendor, and the command line."""
