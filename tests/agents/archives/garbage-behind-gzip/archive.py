from tests.agents.tar_parts import agent, packed


def build() -> bytes:
    return packed(agent()) + b"#!/bin/sh\n"
