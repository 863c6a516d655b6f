# The service as one static binary and nothing else: no shell, no libc, no package manager.
#
#     docker build --build-arg COMMIT="$(git rev-parse HEAD)" --build-arg SOURCE_DATE_EPOCH="$(git log -1 --format=%ct)" --tag box .
#
# It runs as 65532 with a read-only root file system; /data is the only place that it may write to, and it
# does so only with SQLite, with the local store, or in the environment "development".

FROM docker.io/library/rust:1.95-alpine3.22 AS build
# What the bundled SQLite, aws-lc and mimalloc are built with; Alpine's Rust links statically.
RUN apk add --no-cache binutils ca-certificates gcc make musl-dev
WORKDIR /source
COPY Cargo.toml Cargo.lock build.rs ./
COPY migrations migrations
COPY src src
# Line tables, by which a panic tells where it was, are most of the binary; compressed, it has 64 MB instead of 146.
# There is no .git in here (.dockerignore): these are what `box --version` tells.
ARG COMMIT=unknown
ARG SOURCE_DATE_EPOCH=
RUN SOURCE_COMMIT="$COMMIT" SOURCE_DATE_EPOCH="$SOURCE_DATE_EPOCH" cargo build --locked --release --bin box \
    && mkdir -p /out/data /out/etc/ssl/certs \
    && objcopy --compress-debug-sections=zlib target/release/box /out/box \
    && cp /etc/ssl/certs/ca-certificates.crt /out/etc/ssl/certs/

# The binary alone, for those who want no image: `docker build --target binary --output . .`
FROM scratch AS binary
COPY --from=build /out/box /box

FROM scratch
COPY --from=build /out/box /box
# Issuers, S3 and origins of imports are reached over TLS.
COPY --from=build /out/etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
# A named volume begins as a copy of this, its owner included.
COPY --from=build --chown=65532:65532 /out/data /data
ENV BOX_LISTEN=0.0.0.0:8080 BOX_DATA_DIR=/data
EXPOSE 8080
USER 65532:65532
VOLUME /data
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s --retries=3 CMD ["/box", "healthcheck"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/box"]
CMD ["serve"]
