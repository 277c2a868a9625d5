# Both binaries in one small image: docker build -t nsq-gateway .
#
# Built in Debian 12 and run on Debian 12's libraries, so that both have the same glibc. The runtime image is distroless:
# glibc, libgcc and nothing to log in with. Its tag moves with Debian's security updates; who needs the same bits every
# time pins both images by digest.
ARG RUST=1.95

FROM rust:${RUST}-slim-bookworm AS build
WORKDIR /src

COPY Cargo.toml Cargo.lock ./
COPY src src
COPY benches benches
COPY deploy/build deploy/build
# Cargo wants every target that Cargo.toml names.
RUN mkdir -p tests/gateway tests/drills \
    && touch tests/gateway/main.rs tests/drills/main.rs \
    && deploy/build \
    && mkdir -p /image/usr/local/bin /image/etc/nsq-gateway /image/var/lib/nsq-gateway \
    && cp target/shipped/apiserver target/shipped/dataserver /image/usr/local/bin/
COPY conf /image/etc/nsq-gateway/conf

FROM gcr.io/distroless/cc-debian12:nonroot
LABEL org.opencontainers.image.title="nsq-gateway" \
    org.opencontainers.image.description="An HTTP gateway that always knows which dataservers are alive" \
    org.opencontainers.image.licenses="MIT"
COPY --from=build /image/usr /usr
COPY --from=build /image/etc/nsq-gateway /etc/nsq-gateway
# registry.snapshot may be kept here; a volume that is mounted here gets this owner.
COPY --from=build --chown=65532:65532 /image/var/lib/nsq-gateway /var/lib/nsq-gateway

# conf/config.yaml, the default, is below this: mount a folder over /etc/nsq-gateway/conf to replace it.
WORKDIR /etc/nsq-gateway
USER 65532:65532
RUN ["/usr/local/bin/apiserver", "check"]
EXPOSE 9000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 CMD ["/usr/local/bin/apiserver", "health"]
ENTRYPOINT ["/usr/local/bin/apiserver"]
