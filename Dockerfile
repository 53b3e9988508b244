# graftd in a container.
#
#   docker build -t graft .                                  CPU (0.6 GB)
#   docker build -t graft:cuda --build-arg DEVICE=cuda .     with CUDA's (3.7 GB)
#   docker run --rm -p 127.0.0.1:50051:50051 graft
#
# deploy/compose.yaml runs both with the settings that production wants.
ARG DEVICE=cpu

# --- dependencies: compilers, libraries, LibTorch ------------------------------
FROM docker.io/library/debian:bookworm-slim AS dependencies
ARG DEVICE
WORKDIR /src
COPY deploy/install.sh deploy/install.sh
RUN case "$DEVICE" in \
      cpu) deploy/install.sh ;; \
      cuda) deploy/install.sh --cuda ;; \
      *) echo "DEVICE is cpu or cuda, not \"$DEVICE\"" >&2; exit 2 ;; \
    esac \
    && rm -rf /var/lib/apt/lists/* ~/.cache/pip

# --- build ---------------------------------------------------------------------
FROM dependencies AS build
ARG DEVICE
COPY . .
# ON, not AUTO: an image for GPUs without the kernels would draw on the CPU.
RUN cmake --preset release -DGRAFT_BUILD_TESTS=OFF -DGRAFT_BUNDLE_LIBTORCH=ON \
      -DGRAFT_ENABLE_CUDA=$([ "$DEVICE" = cuda ] && echo ON || echo OFF) \
      -DCMAKE_INSTALL_PREFIX=/opt/graft \
    && cmake --build --preset release --target graftd graft \
    && cmake --install build/release --strip
RUN deploy/bundle_libraries.sh /opt/graft "$DEVICE"

# --- runtime: only what runs -----------------------------------------------------
FROM docker.io/library/debian:bookworm-slim AS runtime
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin graft \
    && mkdir /adapters && chown graft /adapters
COPY --from=build /opt/graft /opt/graft
ENV PATH=/opt/graft/bin:$PATH \
    OMP_WAIT_POLICY=PASSIVE
# Every library that the programs are linked with is there.
RUN graftd --version && graft --version
# By number: an orchestrator that admits no root cannot look up a name.
USER 10001:10001
EXPOSE 50051
# Health turns SERVING when the base is loaded, and NOT_SERVING when the server
# drains or its base is damaged. It needs no token; for a server with TLS, pass
# --health-cmd with graft's --tls_ca (and --tls_cert, --tls_key).
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s \
  CMD ["graft", "--server", "127.0.0.1:50051", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["graftd"]
# The container's own network is the boundary: publish the port on a loopback
# address, or put TLS in front.
CMD ["--listen", "0.0.0.0:50051", "--allow_insecure"]
