STORES = []
