"""The slow twins of the shipped evictions: plain lists, one decision at a time."""

from __future__ import annotations

import math


class NaiveLRU:
    def __init__(self):
        self.order = []

    def added(self, key, size_bytes):
        self.order.append(key)

    def used(self, key):
        self.order.remove(key)
        self.order.append(key)

    def removed(self, key):
        self.order.remove(key)

    def victim(self):
        return self.order.pop(0) if self.order else None


class NaiveS3FIFO:
    """Yang et al. 2023, Algorithm 1, on lists of [key, size, freq]; the head of a queue is its end."""

    def __init__(self):
        self.S, self.M, self.G = [], [], []

    @staticmethod
    def weight(queue):
        return sum(entry[1] for entry in queue)

    def find(self, key):
        return next(entry for entry in self.S + self.M if entry[0] == key)

    def added(self, key, size_bytes):
        if key in [entry[0] for entry in self.G]:
            self.G = [entry for entry in self.G if entry[0] != key]
            self.M.append([key, size_bytes, 0])
        else:
            self.S.append([key, size_bytes, 0])

    def used(self, key):
        entry = self.find(key)
        entry[2] = min(entry[2] + 1, 3)

    def removed(self, key):
        entry = self.find(key)
        (self.S if entry in self.S else self.M).remove(entry)

    def victim(self):
        while self.S or self.M:
            total = self.weight(self.S) + self.weight(self.M)
            if self.S and (not self.M or self.weight(self.S) >= 0.1 * total):
                key, size_bytes, freq = self.S.pop(0)
                if freq > 1:
                    self.M.append([key, size_bytes, 0])
                else:
                    self.G.append([key, size_bytes, 0])
                    while self.weight(self.G) > 0.9 * total:
                        self.G.pop(0)
                    return key
            else:
                key, size_bytes, freq = self.M.pop(0)
                if freq > 0:
                    self.M.append([key, size_bytes, freq - 1])
                else:
                    return key
        return None


class NaivePinHubs:
    """Hubs and the rest as lists, the lightest hub found by looking at each."""

    def __init__(self, share=0.5, in_degrees=None, always=lambda key: False):
        self.share, self.in_degrees, self.always = share, in_degrees, always
        self.size, self.weight, self.rest, self.hubs = {}, {}, [], []
        self.n_uses = 0

    def added(self, key, size_bytes):
        self.size[key] = size_bytes
        if self.always(key):
            self.weight[key] = math.inf
            self.hubs.append(key)
        else:
            self.weight[key] = 0 if self.in_degrees is None else self.in_degrees.get(key, 0)
            self.rest.append(key)
            self.promote(key)

    def used(self, key):
        if self.in_degrees is None:
            self.weight[key] += 1
            self.n_uses += 1
            if self.n_uses >= 16 * len(self.size):
                self.n_uses = 0
                for other in self.weight:
                    self.weight[other] /= 2
        if key in self.rest:
            self.rest.remove(key)
            self.rest.append(key)
            self.promote(key)

    def promote(self, key):
        if self.weight[key] == 0:
            return False
        room = self.share * sum(self.size.values()) - self.size[key]
        while sum(self.size[hub] for hub in self.hubs) > room:
            lightest = min(self.hubs, key=self.weight.get, default=None)
            if lightest is None or self.weight[lightest] >= self.weight[key]:
                return False
            self.hubs.remove(lightest)
            self.rest.append(lightest)
        self.rest.remove(key)
        self.hubs.append(key)
        return True

    def removed(self, key):
        (self.hubs if key in self.hubs else self.rest).remove(key)
        del self.size[key], self.weight[key]

    def victim(self):
        while self.rest and self.promote(self.rest[0]):
            pass
        key = self.rest[0] if self.rest else min(self.hubs, key=self.weight.get, default=None)
        if key is not None:
            self.removed(key)
        return key
