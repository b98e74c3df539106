# The image of `make image` on a base of your own, for who has an engine and wants its updates. The base has Node 24.9 or newer as
# /usr/local/bin/node. Needs no network: packages come from node_modules of the checkout (make setup).
#   docker build --build-arg BASE=node:24-bookworm-slim --tag mailcluster .
# What is in it is in charts/image/contents.ts; test/process/image.test.ts holds this file to it.
ARG BASE=node:24.21.0-bookworm-slim

FROM ${BASE} AS tree
WORKDIR /source
COPY . .
RUN node charts/image/main.ts --tree /tree

FROM ${BASE}
COPY --from=tree /tree/ /
USER 10001:10001
ENV PATH=/usr/local/bin:/usr/bin:/bin NODE_ENV=production NODE_COMPILE_CACHE=/tmp/compile-cache
WORKDIR /opt/mailcluster
ENTRYPOINT []
CMD ["mailcluster", "--help"]
LABEL org.opencontainers.image.title=mailcluster org.opencontainers.image.version=0.1.0 org.opencontainers.image.licenses=Apache-2.0
