# A node in a container: docker build -t mxfleet --build-arg REVISION=$(git rev-parse --short HEAD) .
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
ARG REVISION=unknown
RUN MXFLEET_REVISION="$REVISION" cargo build --release --locked --bin mxfleet

FROM debian:bookworm-slim
LABEL org.opencontainers.image.title="mxfleet" \
      org.opencontainers.image.description="A fleet of MX hosts that behaves as one mail relay" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates \
 && rm -rf /var/lib/apt/lists/* \
 && install -d -o 10025 -g 10025 -m 750 /var/lib/mxfleet \
 && install -d /etc/mxfleet
COPY --from=build /src/target/release/mxfleet /usr/bin/mxfleet
# A number, so that an orchestrator can see that it is not root. The root file system may be
# read-only: only /var/lib/mxfleet is written to.
USER 10025:10025
VOLUME /var/lib/mxfleet
EXPOSE 25/tcp 8080/tcp 9090/tcp 4190/udp
STOPSIGNAL SIGTERM
# Huge pages, as in the systemd unit.
ENV MXFLEET_ADMIN=/var/lib/mxfleet/admin.sock _RJEM_MALLOC_CONF=thp:always
HEALTHCHECK --interval=10s --timeout=6s --start-period=60s --retries=3 \
  CMD ["mxfleet", "health", "--config", "/etc/mxfleet/mxfleet.toml"]
ENTRYPOINT ["mxfleet"]
CMD ["run", "--config", "/etc/mxfleet/mxfleet.toml"]
