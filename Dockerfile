# The image: the binary on a small Debian, run by a user of its own.
#
#   docker build --tag sluicegate .
#   docker run --stop-timeout 45 --security-opt seccomp=scripts/packaging/seccomp.json \
#       --volume ./main.toml:/etc/sluicegate/main.toml:ro --publish 8080:8080 sluicegate
#
# Docker's own seccomp profile refuses io_uring from version 25 on; the one named above allows what
# the binary needs. The file that is mounted has to bind 0.0.0.0: the image's own one, an example,
# binds 127.0.0.1, where `--publish` reaches nothing.
FROM rust:1-slim-bookworm AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends cmake g++ make perl pkg-config \
    && rm --recursive --force /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin sluicegate

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm --recursive --force /var/lib/apt/lists/* \
    && groupadd --system --gid 10001 sluicegate \
    && useradd --system --uid 10001 --gid sluicegate --no-create-home sluicegate \
    && install --directory --owner=sluicegate --group=sluicegate /run/sluicegate /var/log/sluicegate
COPY --from=build /src/target/release/sluicegate /usr/bin/sluicegate
COPY scripts/packaging/main.toml /etc/sluicegate/main.toml
RUN chmod 0644 /etc/sluicegate/main.toml
USER 10001:10001
# What stops it in order: it drains, then ends.
STOPSIGNAL SIGTERM
ENV SLUICEGATE_ADMIN=unix:/run/sluicegate/admin.sock
HEALTHCHECK --interval=10s --timeout=6s --start-period=10s \
    CMD ["/usr/bin/sluicegate", "ctl", "status", "--json"]
ENTRYPOINT ["/usr/bin/sluicegate"]
CMD ["run", "--config", "/etc/sluicegate/main.toml"]
