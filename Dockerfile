# docker build -t pruning . && docker run -v $PWD/runs:/pruning/runs -v $PWD/data:/pruning/data pruning
FROM python:3.12-slim
COPY . /source
RUN pip install --no-cache-dir /source
WORKDIR /pruning
ENTRYPOINT ["pruning-sweeps"]
