# What is done often, by name: `just` lists it. Nothing here does more than the line it shows.

_default:
    @just --list

# The release binary, target/release/box
build:
    cargo build --locked --release

# All tests beside a PostgreSQL and an S3 server of their own; words select tests by name
test *filter:
    scripts/test {{ filter }}

# The same, with the long ones
test-full *filter:
    scripts/test --full {{ filter }}

# Kills of the service, PostgreSQL and S3 while writers write, with the binary that the tests build
crash *arguments:
    cargo test --locked --no-run
    scripts/crash-test {{ arguments }}

# What CI checks before the tests
lint:
    .ci/run lint

# Fuzzes one target or each, for some seconds: see fuzz/README.md
fuzz *arguments:
    scripts/fuzz {{ arguments }}

# The service on this machine, with its data in ./box-data
serve *arguments:
    cargo run --locked -- serve {{ arguments }}

# A shell beside PostgreSQL and S3, which stop when it is left
servers:
    scripts/with-servers bash

# Writes openapi.json anew; a failed run leaves the old one
openapi:
    cargo run --locked --quiet -- openapi > target/openapi.json
    mv target/openapi.json openapi.json

# Versions, changelog, checks, commit and tag of a release, as 1.2.3; pushing the tag publishes it
release version:
    scripts/release {{ version }}
